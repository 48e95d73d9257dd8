"""A completion as it grows, whichever engine writes it."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain
from typing import Literal, Protocol

import msgspec
from pydantic import ValidationError

from abruzzi.protocol.tokens import Tokenizer
from tests.engines.standins.constraints import Backend, Constraint, Guide, compiled, held
from tests.engines.standins.models import Asked, Model
from tests.engines.standins.serving import Reply, Standin, Stream
from tests.engines.standins.vocabulary import EOS, IM_END, IM_USER, Spelling, closing, ids_of
