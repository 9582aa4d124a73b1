"""What is measured, a file each: `measure` gives figures, `present` makes a section of the page of them."""

from types import ModuleType

from . import crash, distance, endurance, footprint, hand_over, held_key, many_tasks, one_key, one_task

ALL: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (one_task, distance, many_tasks, one_key, hand_over, held_key, crash, footprint, endurance)
}
