"""Out of memory: the batch is halved, gradients are gathered over twice as many, and the user is told.

Not where several processes train together: one that begins anew would wait for the others, and they for it.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from doorstep.errors import ConversionError
from doorstep_converters.together import processes

Result = TypeVar("Result")


def halving(attempt: Callable[[int], Result], batch: int, say: Callable[[str], None]) -> Result:
    """Call `attempt` with `batch`, then with half of it, until the memory is enough.

    Raises:
        ConversionError: not even one text at a time fits.
    """
    while True:
        try:
            return attempt(batch)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            reason = str(error).partition("\n")[0][:200]
        if (others := processes() - 1) and batch > 1:
            raise ConversionError(
                f"training: out of memory with {batch} texts at a time beside {others} other processes ({reason}); "
                "use fewer --processes where they share a memory, more where each has its own, "
                "or --finetune lora or head"
            )
        if batch == 1:
            raise ConversionError(
                f"training: out of memory even with one text at a time ({reason}); "
                "use a machine with more, a shorter --max-length, or --finetune lora or head"
            )
        batch //= 2
        say(f"out of memory: the batch is now {batch} texts, and as many batches more make one step")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
