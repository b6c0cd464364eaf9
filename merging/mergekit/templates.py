"""The chat template that a merge config asks for."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint

# The prompt formats by the names that mergekit has for them, written anew from the formats' own descriptions.
_TURNS = "{% for message in messages %}"
_NAMED = {
    "chatml": (
        _TURNS + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "alpaca": (
        _TURNS + "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}" + _TURNS + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}" + _TURNS + "{% if message['role'] == 'assistant' %}"
        "{{ ' ' + message['content'] | trim + eos_token }}"
        "{% else %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "exaone": (
        _TURNS + "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{{ '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
}
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")  # a tag that only transformers knows


def chat_template(asked: str | None, models: Sequence[Checkpoint]) -> str | None:
    """A named template, the template itself, or for `auto` the one that most of the models have; None for none.

    Of templates that as many models have, that of the first model is taken.
    """
    if asked is None:
        return None
    if asked != "auto":
        return _NAMED.get(asked, asked)
    found = [template for template in (template_of(model.model_folder) for model in models) if template is not None]
    return Counter(found).most_common(1)[0][0] if found else None


def template_fault(text: str) -> str | None:
    """Where a chat template is no Jinja, with what transformers adds to it; None where it is."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", text))
    except TemplateSyntaxError as error:
        return f"line {error.lineno} is none: {error.message}"
    return None


def template_of(folder: Path) -> str | None:
    """A model's own chat template, from its file or from the tokenizer's settings."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8").strip()
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    template: Any = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template.strip() if isinstance(template, str) else None
