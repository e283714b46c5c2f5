"""Out of memory: the batch is halved, gradients are gathered over twice as many, and the user is told.

Not where several processes train together: one that begins anew would wait for the others, and they for it.
"""

from collections.abc import Callable
from typing import TypeVar

from doorstep.errors import ConversionError
from doorstep_converters.memory import free, is_out_of_memory, reason_of
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
            if not is_out_of_memory(error):
                raise
            reason = reason_of(error)
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
        free()
