"""The settings of a synthesis: the endpoint, the recipe, its seeds, and what it may cost."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from tasks.addresses import Address

Recipe = Literal["self_instruct", "answers", "evolve", "back_translation", "preferences"]


class EndpointParams(BaseModel, frozen=True, extra="forbid"):
    """Where the model is served, how fast it may be asked, and what it costs."""

    base_url: Address = Field(description="Base URL of the endpoint, such as http://127.0.0.1:8000/v1.")
    model: str = Field(description="Name of the model, as the endpoint knows it.")
    license: str = Field(
        min_length=1, description="What the terms of the endpoint or the license of the model say about the use of its "
        "answers as training data. Every record contains it.",
    )  # fmt: skip
    api_key_variable: str = Field(
        "OPENAI_API_KEY", description="Environment variable that contains the API key, if one is needed."
    )
    num_connections: int = Field(8, ge=1, description="Number of simultaneous requests.")
    requests_per_minute: float | None = Field(None, gt=0, description="Limit of the endpoint; null is no limit.")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Limit of the endpoint for tokens of prompts and answers; null is no limit."
    )
    timeout_seconds: float = Field(120.0, gt=0, description="Seconds until a request without a reply is sent again.")
    max_attempts: int = Field(6, ge=1, description="How often a request is sent before the run ends with an error.")
    retry_seconds: float = Field(
        1.0,
        gt=0,
        description="Seconds before the second attempt; doubled for each one after it, or those that it states.",
    )
    price_per_million_input: float = Field(0.0, ge=0, description="Price of a million tokens of prompts.")
    price_per_million_output: float = Field(0.0, ge=0, description="Price of a million tokens of answers.")


class Params(BaseModel, frozen=True, extra="forbid"):
    """What to make, from what, and within which budget."""

    endpoint: EndpointParams = Field(description="The model that is asked.")
    recipe: Recipe = Field(
        description="self_instruct: new instructions from examples, with answers. answers: answers to the seeds. "
        "evolve: harder versions of the seeds, with answers. back_translation: translations of the seeds between "
        "Chinese and English, with the seed as the answer. preferences: two answers to each seed, judged in both "
        "orders."
    )
    seeds: Path = Field(
        description="Text file with one seed a line, or JSON Lines with the field `instruction` or `text`."
    )
    output: Path = Field(Path("data/raw/synthetic/default"), description="Folder of the replies and of the result.")
    num_instructions: int = Field(100, ge=1, description="self_instruct: number of new instructions.")
    num_examples: int = Field(6, ge=1, description="self_instruct: seeds and earlier instructions shown in a request.")
    num_per_request: int = Field(5, ge=1, description="self_instruct: instructions asked for in one request.")
    answer: bool = Field(True, description="self_instruct, evolve: whether the new instructions are answered, too.")
    max_similarity: float = Field(
        0.7,
        gt=0,
        le=1,
        description="An instruction whose Jaccard similarity to an earlier one is at least this is dropped.",
    )
    min_chars: int = Field(1, ge=1, description="Shortest instruction or answer that is kept, in characters.")
    max_chars: int = Field(20_000, ge=1, description="Longest instruction or answer that is kept, in characters.")
    temperature: float = Field(0.8, ge=0, description="Sampling temperature; judges are asked at 0.")
    max_tokens: int = Field(512, ge=1, description="Longest reply, in tokens.")
    max_cost: float | None = Field(
        None, gt=0, description="The run ends before the cost exceeds this; null is no limit."
    )
    max_total_tokens: int | None = Field(
        None, gt=0, description="The run ends before it uses more tokens; null is no limit."
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of examples.")
