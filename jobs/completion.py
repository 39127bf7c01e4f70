"""fgvc completion: a script with which bash or zsh completes commands, shipped configs and settings.

    eval "$(fgvc completion bash)"               in this shell, or in ~/.bashrc
    eval "$(fgvc completion zsh)"                in ~/.zshrc, after compinit
    fgvc completion bash > ~/.local/share/bash-completion/completions/fgvc

The script holds all it knows: it starts nothing while you type. Make it again after an update.
"""

from jobs.config import SHIPPED, walk
from jobs.registry import COMMANDS, command_module
from shards.errors import UserError

OPTIONS = "--on --dry-run --print-config --processes --estimate --follow --help"
SECOND = {
    "shards": "build verify show list coco convert",
    "cluster": "up down status",
    "weights": "get",
    "completion": "bash zsh",
}


def main(words: list[str]) -> int:
    """`fgvc completion SHELL`. Raises UserError for another shell."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    if words not in (["bash"], ["zsh"]):
        raise UserError(f"{' '.join(words)}: expected bash or zsh")
    print(script(zsh=words == ["zsh"]))
    return 0


def script(zsh: bool) -> str:
    """The script. zsh runs it through its own emulation of bash's completion."""
    cases = "\n".join(f'        {name}) words="{_words(name)}" ;;' for name in COMMANDS)
    lines = ["# Completion of fgvc; made by: fgvc completion " + ("zsh" if zsh else "bash")]
    if zsh:
        lines += ["autoload -U +X bashcompinit && bashcompinit"]
    lines += [
        "_fgvc() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" words=""',
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f'        COMPREPLY=($(compgen -W "{" ".join(COMMANDS)}" -- "$current")); return',
        "    fi",
        '    case "${COMP_WORDS[1]}" in',
        cases,
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        '    if [ "${#COMPREPLY[@]}" -eq 0 ]; then COMPREPLY=($(compgen -f -- "$current")); fi',
        "}",
        "complete -o nospace -o filenames -F _fgvc fgvc",
    ]
    return "\n".join(lines)


def _words(name: str) -> str:
    """What may stand after a command: subcommands, shipped configs by name, options, settings."""
    folder = {"sweep": "sweeps"}.get(name, name)
    configs = [file.stem for file in sorted((SHIPPED / folder).glob("*.yaml"))]
    settings = [f"{key}=" for key, _ in walk(command_module(name).Config)] if COMMANDS[name].job else []
    options = OPTIONS.split() if COMMANDS[name].job or name in ("sweep", "compare") else []
    return " ".join([*SECOND.get(name, "").split(), *configs, *options, *settings])
