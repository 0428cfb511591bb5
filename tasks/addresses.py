"""Addresses that may contain a password, a token or a signature, and texts in which these are replaced by ***.

Whatever is printed, stored or sent elsewhere shows the replaced text. Only the code that opens an address sees all of
it, through `reveal`.
"""

import os
import re
from typing import Any
from urllib.parse import quote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

HIDDEN = "***"
VARIABLE = re.compile(r"\$\{(\w+)\}")
MIN_SECRET_CHARS = 6  # shorter parts are replaced in their address only, because other texts contain them by chance
# user:password@ or token@ after the scheme; a password that is a variable is not a secret.
_USER = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)(?P<user>[^/\s?#\"'<>]*)@")
_USER_OF_VARIABLES = re.compile(r"(?:[\w.-]*:)?\$\{\w+\}")
_FIELD = re.compile(
    r"(?P<key>[?&#;](?:[\w-]*[-_])?(?:access[-_]?key(?:id)?|api[-_]?key|auth|code|credential|credentials|key|passwd|"
    r"password|pwd|sas|secret|secrets|sig|signature|token|tokens))=(?P<value>[^&#\s\"'<>]+)",
    re.IGNORECASE,
)
_secrets: set[str] = set()  # parts of the addresses of this process, which errors of libraries may repeat
_values: dict[str, str] = {}  # values of ${NAME} that are not in the environment


class Address(str):
    """A URL or path. As text it is the redacted one; `reveal` returns the whole one.

    ${NAME} stands for a variable of the environment, so that params.yaml need not contain the secret.
    """

    _whole: str

    def __new__(cls, text: str) -> "Address":
        """Return the address whose text, in which secrets may be, is `text`."""
        address = super().__new__(cls, redact(text))
        address._whole = text._whole if isinstance(text, Address) else text
        _register(address._whole)
        return address

    def reveal(self) -> str:
        """Return the address with its secrets. Raises KeyError for a variable that has no value."""
        if "://" not in self._whole and not VARIABLE.fullmatch(self._whole):
            return self._whole
        for name in VARIABLE.findall(self._whole):
            _add_secret(_value(name))
        whole = _USER.sub(lambda match: VARIABLE.sub(_quoted, match[0]), self._whole)
        whole = VARIABLE.sub(lambda match: _value(match[1]), whole)
        _register(whole)
        return whole

    def variables(self) -> list[str]:
        """Return the names of the variables whose values `reveal` inserts."""
        return VARIABLE.findall(self._whole) if "://" in self._whole or VARIABLE.fullmatch(self._whole) else []

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Accept text; write the redacted text."""
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the type as text."""
        return {"type": "string"}

    @classmethod
    def _validate(cls, value: Any) -> "Address":
        if isinstance(value, cls):
            return value
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "Input should be a valid string")
        return cls(value)


def reveal(path: str) -> str:
    """Return the whole text of an Address, and any other text as it is."""
    return path.reveal() if isinstance(path, Address) else path


def redact(text: str) -> str:
    """Replace user names with passwords, tokens and signatures in the URLs of `text`, and known secrets anywhere."""
    if "://" in text:
        text = _FIELD.sub(rf"\g<key>={HIDDEN}", _USER.sub(_hide_user, text))
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def has_secret(text: str) -> bool:
    """Whether an address in `text` contains a secret itself, and not a variable in its place."""
    return "://" in text and (
        any(not _is_harmless(match["user"]) for match in _USER.finditer(text))
        or any(not VARIABLE.fullmatch(match["value"]) for match in _FIELD.finditer(text))
    )


def set_value(name: str, value: str) -> None:
    """Set the value of ${name} for this process and not for the processes that it starts."""
    _values[name] = value
    _add_secret(value)


def has_value(name: str) -> bool:
    """Whether ${name} has a value."""
    return name in _values or name in os.environ


def _value(name: str) -> str:
    return _values.get(name) or os.environ[name]


def _quoted(match: "re.Match[str]") -> str:
    """Return the value of a variable for the part of a URL before @, where `/`, `@` and others end a password.

    `%` stays, because a value may be quoted already.
    """
    return quote(_value(match[1]), safe="%")


def _is_harmless(user: str) -> bool:
    return not user or bool(_USER_OF_VARIABLES.fullmatch(user))


def _hide_user(match: "re.Match[str]") -> str:
    return match[0] if _is_harmless(match["user"]) else f"{match['scheme']}{HIDDEN}@"


def _register(whole: str) -> None:
    for match in _USER.finditer(whole):
        if not _is_harmless(match["user"]):
            _add_secret(match["user"].partition(":")[2] or match["user"])
    for match in _FIELD.finditer(whole) if "://" in whole else ():
        _add_secret(match["value"])


def _add_secret(value: str) -> None:
    if len(value) >= MIN_SECRET_CHARS and not VARIABLE.fullmatch(value):
        _secrets.add(value)
