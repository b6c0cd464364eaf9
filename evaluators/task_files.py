"""Find what in a task's YAML files would run Python, without running it."""

from collections.abc import Iterator
from pathlib import Path

import yaml

PLAIN = "tag:yaml.org,2002:"


def code_references(path: Path) -> list[str]:
    """`file:line: !function name` for every tag that is not plain data, in the file and those it includes."""
    found: list[str] = []
    waiting = [path.resolve()]
    seen: list[Path] = []
    while waiting:
        file = waiting.pop(0)
        if file in seen or not file.is_file():
            continue  # a missing include is lm-eval's to report
        seen.append(file)
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        for node in _nodes(root):
            if not node.tag.startswith(PLAIN) or node.tag.startswith(PLAIN + "python/"):
                value = node.value if isinstance(node, yaml.ScalarNode) else ""
                found.append(f"{file}:{node.start_mark.line + 1}: {node.tag} {value}".rstrip())
        waiting += [(file.parent / name).resolve() for name in _includes(root)]
    return found


def unreadable(folders: list[Path]) -> list[str]:
    """`file: reason` for each `.yaml` below the folders that is not YAML; lm-eval skips these in silence."""
    problems: list[str] = []
    for folder in folders:
        for file in sorted(folder.glob("**/*.yaml")):
            try:
                yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
                problems.append(f"{file}: {' '.join(str(error).split())}")
    return problems


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    waiting = [root] if root is not None else []
    seen: set[int] = set()  # an alias may point back at its own parent
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _includes(root: yaml.Node | None) -> list[str]:
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "include":
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [str(item.value) for item in items]
    return []
