"""lm-eval's only home.

What runs from a task file: its Jinja templates, which lm-eval does not sandbox and `templates` does; and Python that it
names with `!function`, which is refused outside lm-eval's own package unless `allow_code` is set.
"""

from evaluators.harness.evaluator import HarnessEvaluator
from evaluators.harness.resident import ResidentLM

__all__ = ["HarnessEvaluator", "ResidentLM"]
