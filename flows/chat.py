"""Chat with a model in the terminal; the answer appears token by token.

/help shows the commands; an empty line or Ctrl-D ends the chat. If standard input is not a terminal, each line of it is
one message and each answer is one line of output.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.chat_commands import Session
from flows.runtime import arguments
from tasks.conversations import Message
from tasks.errors import BadArgument, BadInput, BadModel, UserError
from tasks.files import read_json
from tasks.pipeline_stages import read_stages

if TYPE_CHECKING:
    import torch

MAX_EXAMPLE_CHARACTERS = 60  # longer questions are not shown as examples
INTERRUPTED = 130  # the exit code that shells give to a process ended by Ctrl-C
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # OWNER/NAME
REPLACEMENT = "\ufffd"  # what bytes decode to that are not (yet) a complete character


@dataclass
class Chat:
    """A conversation with a model. It keeps as many of the latest messages as fit into the model's context."""

    model: Any
    tokenizer: Any
    temperature: float
    top_p: float
    max_new_tokens: int
    generator: "torch.Generator"
    messages: list[Message] = field(default_factory=list)

    def reply(self, message: str, on_text: Callable[[str], object]) -> str:
        """Generate the model's answer to `message` and append both to the conversation.

        `on_text` is called with each new part of the answer's text. Raises BadInput if `message` is too long; the
        conversation is then as before.
        """
        from tasks.chat_templates import ChatTemplate, end_ids
        from tasks.generation import generate

        template = ChatTemplate.of(self.tokenizer)
        tokens: list[int] = []
        printed = ""

        def on_token(_row: int, token: int) -> None:
            # A token may be a part of a multi-byte character, so that the text is decoded again from all tokens, and
            # printed only when its last character is complete.
            nonlocal printed
            tokens.append(token)
            (text,) = template.texts([tokens])
            is_content = text.startswith(printed) and not template.is_in_preface(tokens)
            if is_content and not text.endswith(REPLACEMENT):
                on_text(text[len(printed) :])
                printed = text

        self.messages.append({"role": "user", "content": message})
        try:
            generate(
                self.model,
                [self._prompt()],
                max_new_tokens=self.max_new_tokens,
                end_ids=end_ids(self.tokenizer, self.model),
                pad_id=self.tokenizer.pad_token_id,
                temperature=self.temperature,
                top_p=self.top_p,
                generator=self.generator,
                on_token=on_token,
            )
        except UserError:
            self.messages.pop()
            raise
        (answer,) = template.texts([tokens])
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def _prompt(self) -> list[int]:
        """The token ids of the conversation; the oldest turns are removed if an answer would not fit after them."""
        from tasks.causal.backbone import context_length

        context = context_length(self.model)
        ids = self._ids()
        first = int(self.messages[0]["role"] == "system")  # the system message stays
        while len(ids) + self.max_new_tokens > context and len(self.messages) > first + 1:
            del self.messages[first : first + 2]  # one message of the user and the answer to it
            ids = self._ids()
        return ids

    def _ids(self) -> list[int]:
        from tasks.chat_layout import Refused
        from tasks.chat_templates import ChatTemplate

        (prompt,) = ChatTemplate.of(self.tokenizer).encode_prompts([self.messages])
        if isinstance(prompt, Refused):
            raise BadInput(f"the chat template of the model refuses this conversation: {prompt}. Try /reset.")
        return [int(token) for token in prompt.ids]


def main(command_line: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse(command_line)
    try:
        session = open_session(args)
        if sys.stdin.isatty():
            print(introduction(session, args.data), file=sys.stderr)
        session.talk(_input_lines())
    except UserError as error:
        print(f"athanor: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    return 0


def open_session(args: argparse.Namespace) -> Session:
    """Load the model, and the one to compare it with. Raises BadModel."""

    def open_model(name: str | None) -> tuple[str, Chat]:
        folder = find_model(name, args.data)
        return Path(folder).name if Path(folder).is_dir() else str(folder), open_chat(args, folder)

    partners = dict(open_model(name) for name in (args.model, *([args.compare] if args.compare else [])))
    return Session(dict(partners), open_model, trained_stages(args.data), args.forget, args.json)


def introduction(session: Session, data: Path) -> str:
    """What the assistant is, in two lines, and questions that it was not trained on as examples."""
    names = " and ".join(session.partners)
    num_weights = " and ".join(f"{chat.model.num_parameters() / 1e6:,.1f}" for chat in session.partners.values())
    sources, examples = example_questions(data)
    return "\n".join(
        [
            f"You chat with {names}: {num_weights} million weights"
            + (f", trained on conversations of {', '.join(sources)}." if sources else "."),
            "It can answer the kinds of questions that it was trained on, and may be wrong. /help shows the commands.",
            *(f"  for example: {example}" for example in examples),
        ]
    )


def example_questions(data: Path, num_examples: int = 3) -> tuple[list[str], list[str]]:
    """The sources of the test prompts, and the first questions of some test conversations."""
    file = data / "tokens/prompts/test/metadata.json"
    if not file.is_file():
        return [], []
    metadata = [dict(about) for about in read_json(file)]
    sources = sorted({str(about["source"]) for about in metadata if "source" in about})
    texts = [str(about["text"]) for about in metadata if about.get("turn", 1) == 1 and "text" in about]
    texts = [text for text in dict.fromkeys(texts) if "\n" not in text and len(text) <= MAX_EXAMPLE_CHARACTERS]
    step = max(1, len(texts) // num_examples)
    return sources, texts[::step][:num_examples]


def open_chat(args: argparse.Namespace, folder: str | Path) -> Chat:
    """Load the model in `folder`. Raises BadModel."""
    print(f"loading {folder} ...", file=sys.stderr, flush=True)
    import torch

    from tasks import models
    from tasks.causal import remembered
    from tasks.causal.backbone import context_length
    from tasks.causal.self_check import AS_LOADED, Needs

    model, tokenizer = models.load_causal(folder)
    if tokenizer.chat_template is None:
        raise BadModel(
            f"{folder} has no chat template, so that it was not trained on conversations. Choose another model with "
            "--model."
        )
    generator = torch.Generator()
    generator.manual_seed(args.seed) if args.seed is not None else generator.seed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    needs = Needs(generation="auto", max_length=context_length(model), attentions=AS_LOADED)
    remembered.prepare(model, tokenizer, needs, keep_attention=True)
    return Chat(model, tokenizer, args.temperature, args.top_p, args.max_new_tokens, generator)


def find_model(name: str | None, data: Path) -> str | Path:
    """The folder or hub name of the model `name`: a stage, champion, a version of promotion, a folder or a hub name.

    Without a name, the trained stage with the longest chain of stages before it: ppo, which needs a reward model, comes
    after dpo and sft. Raises BadModel if there is none, and BadArgument for an unknown name.
    """
    available = trained_stages(data)
    if name is None:
        if not available:
            from tasks import models

            reasons = {models.left_out(folder) for folder in data.glob("models/*")} - {None}
            why = f" Stages were left out: {'; '.join(sorted(map(str, reasons)))}." if reasons else ""
            raise BadModel(f"there is no trained model in {data / 'models'} that answers.{why} `make run` trains one.")
        return data / "models" / available[0]
    if name and (data / "models" / name).is_dir():
        return data / "models" / name
    version = data / "promotion" / "versions" / name / "model"
    if name.isdecimal() and version.is_dir():
        return version
    owner, _, rest = name.partition("/")
    if (name and Path(name).is_dir()) or (rest and HUB_NAME.fullmatch(name) and not Path(owner).exists()):
        return name
    raise BadArgument(
        f"there is no model {name!r} in {data / 'models'} (available: {', '.join(available) or 'none'}), and no folder "
        "with this name. A name on the Hugging Face Hub is written as OWNER/NAME."
    )


def trained_stages(data: Path) -> list[str]:
    """The stages of dvc.yaml whose model answers prompts and is in data/models, the last of the pipeline first."""
    stages = [stage for stage in read_stages() if stage.answers_prompts]
    order = sorted(range(len(stages)), key=lambda index: (stages[index].depth, index), reverse=True)
    names = [stages[index].name for index in order]
    return [name for name in names if (data / "models" / name / "config.json").is_file()]


def _input_lines() -> Iterable[str]:
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  (importing it gives `input` arrow keys and a history)

    while True:
        try:
            yield input("› ")
        except EOFError:
            print(file=sys.stderr)
            return


def parse(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; an invalid one ends the process with exit code 2."""
    parser = arguments.parser("flows.chat", __doc__)
    add = parser.add_argument
    add("--model", help="a training stage, a model folder or a hub name (default: the last trained stage)")
    add("--temperature", type=_at_least_zero, default=0.7, help="0 chooses the most likely token (default 0.7)")
    add("--top-p", type=_probability, default=0.9, help="sample from this share of the probability (default 0.9)")
    add("--seed", type=int, help="seed of the random numbers; with it, the same messages get the same answers")
    add("--max-new-tokens", type=_positive, default=256, help="maximum length of an answer, in tokens (default 256)")
    add("--forget", action="store_true", help="each message begins a new conversation, for example in a pipe")
    add("--compare", metavar="MODEL", help="a second model that answers the same messages, such as sft")
    add("--data", type=Path, default=Path("data"), help="folder that contains models/ (default data)")
    add("--json", action="store_true", help="print one JSON object per answer: message and answer")
    return parser.parse_args(command_line)


def _at_least_zero(text: str) -> float:
    return _checked(float(text), lambda value: 0 <= value < float("inf"), "a number of at least 0")


def _probability(text: str) -> float:
    return _checked(float(text), lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def _positive(text: str) -> int:
    return int(_checked(int(text), lambda value: value > 0, "an integer above 0"))


def _checked(value: float, is_valid: Callable[[float], bool], expected: str) -> float:
    if not is_valid(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, received {value:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
