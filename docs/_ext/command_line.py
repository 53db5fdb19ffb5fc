"""A directive that documents a command from the parser itself, so that the page cannot drift from the program.

`.. command-line:: fit` writes the command's purpose, its usage line, and a definition list of its arguments; a command
within another is named with both, as in `.. command-line:: denoise fit`.
Every command must be on the page, and every one on the page must exist: a missing one is a warning.
"""

from __future__ import annotations

import argparse
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from noiseflow.cli import _parser

log = logging.getLogger(__name__)

_PAGE = "reference/command-line"


def commands() -> dict[str, Any]:
    """The parser of every command; of one that only holds others, those."""
    return _inside(_parser(), "")


def _inside(parser: Any, prefix: str) -> dict[str, Any]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        return {prefix.strip(): parser}
    found = {}
    for name, inner in groups[0].choices.items():
        found |= _inside(inner, f"{prefix} {name}")
    return found


class CommandLine(SphinxDirective):
    """The arguments of one command."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name, known = self.arguments[0], commands()
        if name not in known:
            raise self.error(f"there is no command {name!r}; known: {', '.join(known)}")
        self.env.metadata[self.env.docname].setdefault("commands", []).append(name)
        parser = known[name]
        arguments = [a for a in parser._actions if a.help is not argparse.SUPPRESS and not isinstance(a, _SKIPPED)]
        positional = [a for a in arguments if not a.option_strings]
        required = [a for a in arguments if a.option_strings and a.required]
        optional = [a for a in arguments if a.option_strings and not a.required]
        usage = [f"noiseflow {name}", *map(_shown, positional), *map(_shown, required), "[options]" if optional else ""]
        text = " ".join(filter(None, usage))
        listed = nodes.definition_list(classes=["command-line"])
        for action in positional + required + optional:
            term = nodes.term("", "", nodes.literal(text=_shown(action)))
            body = nodes.definition("", nodes.paragraph(text=_about(action)))
            listed += nodes.definition_list_item("", term, body)
        about = parser.description
        return [
            nodes.paragraph(text=f"{about[:1].upper()}{about[1:]}."),
            nodes.literal_block(text, text, language="text"),
            listed,
        ]


_SKIPPED = (argparse._HelpAction,)


def _shown(action: argparse.Action) -> str:
    """`--steps STEPS`, `--overwrite`, or `IMAGE...`."""
    if not action.option_strings:
        return f"{action.metavar}{'...' if action.nargs == '+' else ''}"
    flag = action.option_strings[-1]
    return flag if action.nargs == 0 else f"{flag} {action.metavar or action.dest.upper()}"


def _about(action: argparse.Action) -> str:
    """The help, with the default where the help does not name it."""
    text = action.help or ""
    if action.option_strings and action.required:
        text += " (required)"
    elif action.nargs != 0 and action.default not in (None, argparse.SUPPRESS) and "default" not in text:
        default = f"{action.default:g}" if isinstance(action.default, float) else action.default
        text += f" (default: {default})"
    return text


def _check(app: Sphinx, env: Any) -> None:
    missing = set(commands()) - set(env.metadata[_PAGE].get("commands", []))
    if missing:
        log.warning("commands that %s does not document: %s", _PAGE, ", ".join(sorted(missing)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("command-line", CommandLine)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
