"""fgvc weights: pretrained weights as a file, for machines without a connection.

    fgvc weights get tf_efficientnet_lite0                 writes tf_efficientnet_lite0.safetensors here
    fgvc weights get resnet50.tv_in1k weights/r50.safetensors
    fgvc classify CONFIG model.weights=FILE                then, anywhere

NAME is a timm model, with or without a tag. The hub is asked once: what cannot be reached is one line, not a minute.
"""

from pathlib import Path

from jobs.hints import next_lines
from shards.errors import TransientError, UserError


def main(words: list[str]) -> int:
    """`fgvc weights WORDS`. Raises UserError for unknown names and a hub that does not answer."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    name, file = read(words)
    print(f"{get(name, file)}: model.name={name} model.weights={file}")
    print(next_lines("weights", name=name, file=file))
    return 0


def read(words: list[str]) -> tuple[str, Path]:
    """The model and the file that words name; nothing is asked for. Raises UserError as `main` does."""
    if words[0] != "get" or not 2 <= len(words) <= 3:
        raise UserError("expected fgvc weights get NAME [FILE]; see fgvc weights --help")
    file = Path(words[2] if len(words) == 3 else f"{words[1].replace('/', '_')}.safetensors")
    if file.suffix != ".safetensors":
        raise UserError(f"{file}: weights are written as .safetensors; name the file so")
    return words[1], file


def get(name: str, file: Path) -> Path:
    """Write a timm model's pretrained weights as safetensors. Raises UserError as `main` does."""
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from safetensors.torch import save_file

    from fgvc.models.hub import no_such_model, one_try

    if not timm.is_model(name):
        raise UserError(no_such_model(name))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with one_try():
            model = timm.create_model(name, pretrained=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    except LocalEntryNotFoundError:
        raise TransientError(
            f"{name}: the hub does not answer, and its weights are not cached here; run this on a machine with a "
            "connection, and give model.weights=FILE here"
        ) from None
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())[:200]}") from None
    return file
