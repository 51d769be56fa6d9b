"""Schemas of everyday kinds, each with a value that is valid and short."""

import datetime
import enum
import random
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic

Pair = tuple[dict[str, Any], Any]

FORMATS = {
    "date": "1111-11-11",
    "date-time": "1111-11-11T11:11:11Z",
    "duration": "P1D",
    "email": "1@1",
    "hostname": "1",
    "ipv4": "1.1.1.1",
    "ipv6": "::",
    "time": "11:11:11Z",
    "uri": "a:",
    "uuid": "11111111-1111-1111-1111-111111111111",
}
PATTERNS = {
    r"^[0-9]+px$": "1px",
    r"^v?\d+\.\d+\.\d+$": "1.1.1",
    r"^\d+%$": "1%",
    r"^.+@.+$": "1@1",
    r"^\S+\.csv$": "1.csv",
    r"^[^@]+@[^@]+$": "1@1",
    r"^[0-9]+ km$": "1 km",
    r"^[A-Z]{2}[0-9]+X$": "AA1X",
    r"^[A-Z]{2}-[0-9]{3}$": "AA-111",
    r"^#[0-9a-fA-F]{6}$": "#111111",
    r"^\+[1-9]\d{1,14}$": "+11",
    r"^(foo|bar)+baz$": "foobaz",
    r"x.*y.*z": "xyz",
    r"^\$[0-9]{1,3}(,[0-9]{3})*\.[0-9]{2}$": "$1.11",
    r"^[a-z0-9]+(-[a-z0-9]+)*$": "1",
    r"^\p{Greek}+$": "α",
    r"^https?://[^/]+/.*\.(png|jpe?g)$": "http://1/.png",
    r"^.*\.(tar\.gz|zip)$": ".zip",
    r"^(GET|POST) /\S* HTTP/1\.[01]$": "GET / HTTP/1.1",
    r"^\(\d{3}\) \d{3}-\d{4}$": "(111) 111-1111",
    r"^[^\"\\]+\"$": '1"',
}


def string(rng: random.Random) -> Pair:
    kind = rng.randrange(4)
    if kind == 0:
        name = rng.choice(list(FORMATS))
        return {"type": "string", "format": name}, FORMATS[name]
    if kind == 1:
        pattern = rng.choice(list(PATTERNS))
        return {"type": "string", "pattern": pattern}, PATTERNS[pattern]
    if kind == 2:
        length = rng.choice((0, 1, 5, 20))
        return {"type": "string", "minLength": length, "maxLength": length + rng.randrange(20)}, "1" * length
    return {"type": "string", "format": "password", "title": "Free"}, ""


def number(rng: random.Random) -> Pair:
    least = rng.choice((0, 3, 37, 1000, -5))
    pairs: list[Pair] = [
        ({"type": "integer"}, 0),
        ({"type": "number", "examples": [1.5]}, 0),
        ({"type": "integer", "minimum": least}, max(least, 0)),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 1),
        ({"type": "integer", "multipleOf": 25, "minimum": 1}, 25),
        ({"type": "integer", "minimum": 120, "maximum": 129}, 120),
    ]
    return rng.choice(pairs)


def choice(rng: random.Random) -> Pair:
    words = rng.sample(["red", "green", "größer", "a b", 'say "x"', "yes", "no", "東京"], 3)
    pairs: list[Pair] = [({"enum": words}, min(words, key=len)), ({"const": words[0]}, words[0])]
    pairs += [({"type": "boolean"}, True), ({"type": "null"}, None), ({"type": ["string", "null"]}, "")]
    return rng.choice(pairs)


def listing(rng: random.Random, depth: int) -> Pair:
    inner, value = anything(rng, depth - 1)
    least = rng.choice((0, 0, 1, 2))
    bounds = {"minItems": least} | ({"maxItems": least + 3} if rng.random() < 0.5 else {})
    if rng.random() < 0.2:
        return {"type": "array", "prefixItems": [inner], "items": False, "minItems": 1}, [value]
    return {"type": "array", "items": inner, **bounds}, [value] * least


def record(rng: random.Random, depth: int) -> Pair:
    names = rng.sample(["name", "age", "größe", "item_count", "a b", "created at", "x", "tags"], rng.randint(1, 4))
    parts = {name: anything(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    schema: dict[str, Any] = {"type": "object", "properties": {name: part[0] for name, part in parts.items()}}
    if required or rng.random() < 0.5:
        schema["required"] = required
    if rng.random() < 0.3:
        schema["additionalProperties"] = rng.random() < 0.5
    return schema, {name: parts[name][1] for name in required}


def union(rng: random.Random, depth: int) -> Pair:
    branches = [anything(rng, depth - 1) for _ in range(rng.randint(2, 3))]
    return {"anyOf": [branch[0] for branch in branches]}, min(
        (branch[1] for branch in branches), key=lambda v: len(str(v))
    )


def tree(rng: random.Random) -> Pair:
    leaf, value = anything(rng, 0)
    node = {
        "type": "object",
        "properties": {"value": leaf, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["value"],
    }
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}, {"value": value}


def anything(rng: random.Random, depth: int) -> Pair:
    flat: list[Callable[[], Pair]] = [
        lambda: string(rng),
        lambda: string(rng),
        lambda: number(rng),
        lambda: choice(rng),
    ]
    deep: list[Callable[[], Pair]] = [
        lambda: record(rng, depth), lambda: record(rng, depth), lambda: listing(rng, depth), lambda: union(rng, depth)
    ]  # fmt: skip
    return rng.choice(flat + deep if depth > 0 else flat)()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(pydantic.BaseModel):
    street: str
    zip_code: Annotated[str, pydantic.StringConstraints(pattern=r"^\d{5}(-\d{4})?$")]


class Contact(pydantic.BaseModel):
    site: pydantic.HttpUrl
    any_site: pydantic.AnyUrl
    born: datetime.date
    at: datetime.datetime
    lasts: datetime.timedelta
    alarm: datetime.time
    color: Color
    kind: Literal["person", "firm"]
    secret: pydantic.SecretStr
    raw: bytes
    address: Address
    others: list[Address] = []
    tags: Annotated[list[str], pydantic.Field(min_length=1)]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, pydantic.Field(ge=1, le=9)]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: Annotated[str, pydantic.StringConstraints(min_length=3, max_length=8)]


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    ages: dict[str, int]
    point: tuple[int, float]
    friend: "Owner | None" = None


# The form that pydantic gives an EmailStr; the type itself needs a package of its own.
EMAIL = {"type": "object", "properties": {"email": {"format": "email", "title": "Email", "type": "string"}},
         "required": ["email"], "title": "User"}  # fmt: skip

BY_HAND: list[Pair] = [
    (EMAIL, {"email": "1@1"}),
    (
        Contact.model_json_schema(),
        {
            "site": "a:", "any_site": "a:", "born": "1111-11-11", "at": "1111-11-11T11:11:11Z", "lasts": "P1D",
            "alarm": "11:11:11Z", "color": "red", "kind": "firm", "secret": "", "raw": "",
            "address": {"street": "", "zip_code": "11111"}, "tags": [""],
        },
    ),
    (Owner.model_json_schema(), {"pet": {"kind": "cat", "lives": 1}, "ages": {}, "point": [0, 0]}),
    *(({"type": "string", "format": name}, value) for name, value in FORMATS.items()),
    *(({"type": "string", "pattern": pattern}, value) for pattern, value in PATTERNS.items()),
]  # fmt: skip


def schemas(count: int, seed: int) -> list[Pair]:
    """``count`` schemas: the handwritten ones, filled up with generated ones."""
    rng = random.Random(seed)
    made = [tree(rng) if index % 10 == 0 else anything(rng, 3) for index in range(count - len(BY_HAND))]
    return [*BY_HAND, *made]
