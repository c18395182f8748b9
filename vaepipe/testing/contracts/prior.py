"""What every prior promises."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from vaepipe.core import SUPPORTS, Conditional, DataSpec, Family, Prior, PriorDraw, Shape, registry_part
