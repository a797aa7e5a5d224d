"""Options of EmbeddingClient on the command line, made from the core's own table, and their names in messages."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from multiembed import ConfigurationError, EmbeddingOptions

EMBEDDING, CONNECTION, RUN = "Embedding", "Connection", "Limits and retries"
_NOT_HERE = {"api_key", "cache", "key_in_pickle", "output", "show_progress"}
"""Options that have another form on the command line, or no use there."""
_PANELS = {
    EMBEDDING: "dimensions instruct query_prefix document_prefix on_too_long parameters",
    CONNECTION: "base_url region auth_header headers query send_dimensions allow_insecure timeout proxy ca_bundle "
    "client_cert",
}
_HELP = {
    "dimensions": "Numbers in a vector; without it the model's default.",
    "instruct": "What queries are for, in a sentence.",
    "query_prefix": 'Text put before each query; "recommended" takes the one its authors recommend.',
    "document_prefix": "Text put before each document.",
    "on_too_long": "What happens to a text that is longer than the model takes; without it, an error.",
    "parameters": "An extra parameter of the provider's API; the value is JSON or text.",
    "base_url": "Where to send, instead of the provider's own address.",
    "region": "The provider's own name for one of its addresses: cn, intl, hk.",
    "auth_header": "The header of the key, such as api-key, for openai-compatible and gateway.",
    "headers": "An extra HTTP header; keep keys out of it, since other users may see the command line.",
    "query": "A query parameter of the address, for openai-compatible and gateway.",
    "send_dimensions": "Check the size of the vectors, but do not ask the server for it.",
    "allow_insecure": "Allow an http:// address beyond this machine: key and texts travel unencrypted.",
    "timeout": "Seconds for one attempt; without it 60.",
    "proxy": "An HTTP proxy, instead of that in HTTPS_PROXY.",
    "ca_bundle": 'A PEM file of authorities to trust, or "system" for the system\'s.',
    "client_cert": "A PEM file with a certificate and its key, for servers that ask for one.",
    "max_concurrency": "The maximum of requests in flight; without it learned.",
    "requests_per_minute": "The account's quota of requests; without it learned.",
    "tokens_per_minute": "The account's quota of tokens; without it learned.",
    "max_retries": "How often a request is retried after a transient failure.",
    "deadline": "Seconds for one call, retries included; a run of many texts has several calls.",
    "limits": "A correction of the model's limits, such as max_items=64 for texts a request.",
}
"""Help of each option; an option that is not listed has the first sentence of its description."""


def takes_client_options(*panels: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command: its `**client` become the client's options of these panels, and --api-key-env.

    The command gets those that were given. An option that the command declares itself is its own.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {each.name for each in own}
        added = [each for each in _parameters() if each.annotation.__metadata__[0].rich_help_panel in panels]
        added = [each.replace(kind=own[-1].kind) for each in added if each.name not in names]

        @wraps(command)
        def run(**given: Any) -> Any:
            client = {each.name: given.pop(each.name) for each in added}
            if given.get("dry_run"):  # an estimate needs no key
                client.pop("api_key", None)
            return command(**given, **_client_options(client))

        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters() -> list[inspect.Parameter]:
    """Every option as a parameter that typer reads."""
    help_key = "The environment variable that holds the key, instead of the provider's own."
    key = Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help=help_key, rich_help_panel=CONNECTION)
    ]
    found = [inspect.Parameter("api_key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=key)]
    for name, field in EmbeddingOptions.model_fields.items():
        kind = None if name in _NOT_HERE else _type(field.annotation)
        if kind is None:
            continue
        panel = next((panel for panel, names in _PANELS.items() if name in names.split()), RUN)
        text = _HELP.get(name) or f"{(field.description or '').partition('. ')[0].rstrip('.')}."
        off = kind is bool and field.default is True
        flag = f"--{'no-' if off else ''}{name.replace('_', '-')}"
        metavar = "NAME=VALUE" if kind == list[str] else None
        option = typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)
        annotation = Annotated[kind if kind is bool else kind | None, option]  # type: ignore[valid-type]
        default = False if kind is bool else None
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return found


def _type(annotation: Any) -> Any:
    """The type on the command line: bool, int, float, str, a Literal, list[str] for a mapping; None: it has none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal or annotation in (bool, int, float, str):
        return annotation
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return list[str]
    kinds = (_type(each) for each in get_args(annotation) if origin is not Callable)
    return next((kind for kind in kinds if kind is not None), None)


def _client_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as EmbeddingClient takes them."""
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or value is False or value == []:
            continue
        if name == "api_key":
            options[name] = os.environ.get(value, "")
            if not options[name].strip():
                raise ConfigurationError(f"--api-key-env names {value}, which is not set or empty: put the key there.")
        elif value is True:
            options[name] = not EmbeddingOptions.model_fields[name].default
        elif isinstance(value, list):
            options[name] = dict(_pair(name, pair) for pair in value)
        else:
            options[name] = value
    return options


def _pair(option: str, text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigurationError(f"--{option} takes NAME=VALUE, for instance --{option} name=value.")
    if option != "parameters":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
