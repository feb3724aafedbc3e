"""
A3C in rl-zoo3. Importing this package registers A3C as the algorithm ``a3c`` with rl-zoo3, and ``python -m sb3_a3c.zoo`` runs
rl-zoo3's commands.
"""

from sb3_a3c.zoo.models import make
from sb3_a3c.zoo.registration import register

register()

__all__ = ["make", "register"]
