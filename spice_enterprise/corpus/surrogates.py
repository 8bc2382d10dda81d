"""What stands in the text where a value was removed.

In: a label, one spelling of the value for all its mentions, and the workspace key.
Out: a placeholder such as `[PERSON_k3f9ab]`, the same for the same value in every document.
Refuses: nothing.
Not here: finding values (`finding.py`).
"""

import re
from typing import Final

PLACEHOLDER: Final = re.compile(r"\[([A-Z][A-Z_]{1,30}?)(?:_[a-z2-7]{6})?\]")
