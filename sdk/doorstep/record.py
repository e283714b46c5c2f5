"""`Record`: frozen, slotted values that cost nothing to define.

`@dataclass(frozen=True, slots=True)` writes and compiles six methods a class: 1.5 ms each on a kiosk's start, where the
manifest alone has five. A record shares its methods instead (0.03 ms a class) and is a dataclass to everybody else:
`dataclasses.fields`, `asdict`, `replace` and type checkers work on it. See `sdk/docs/decisions/0014-records.md`.
"""

from typing import Any, ClassVar, dataclass_transform


class _Fields:
    """`__dataclass_fields__`, made when somebody asks; a device never does."""

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        from dataclasses import field, make_dataclass

        def declared(name: str) -> Any:
            if name not in owner.__defaults__:
                return field()
            default = owner.__defaults__[name]
            return field(default_factory=dict) if default == {} else field(default=default)

        types = owner.__annotations__
        twin: Any = make_dataclass(owner.__name__, [(name, types[name], declared(name)) for name in owner.__slots__])
        fields: dict[str, Any] = twin.__dataclass_fields__
        return fields


@dataclass_transform(frozen_default=True)
class _RecordType(type):
    """Turns the annotated names of a class body into slots, and their values into defaults."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "_RecordType":
        names = tuple(namespace.get("__annotations__", ())) if bases else ()
        defaults = {field: namespace.pop(field) for field in names if field in namespace}
        shared = {"__slots__": names, "__match_args__": names, "__defaults__": defaults}
        return super().__new__(cls, name, bases, {**namespace, **shared})


class Record(metaclass=_RecordType):
    """A frozen value; subclasses annotate their fields as a dataclass does.

    Fields with defaults come last. The only mutable default is `{}`; every record gets one of its own.
    """

    __slots__: ClassVar[tuple[str, ...]]
    __defaults__: ClassVar[dict[str, Any]]
    __dataclass_fields__: ClassVar[Any] = _Fields()

    def __init__(self, *values: Any, **named: Any) -> None:
        kind = type(self)
        names = kind.__slots__
        if len(values) > len(names):
            raise TypeError(f"{kind.__name__}: expected at most {len(names)} values, got {len(values)}")
        store = object.__setattr__
        for name, value in zip(names, values):
            if name in named:
                raise TypeError(f"{kind.__name__}: {name} is given twice")
            store(self, name, value)
        for name in names[len(values) :]:
            if name in named:
                store(self, name, named.pop(name))
            elif name in kind.__defaults__:
                default = kind.__defaults__[name]
                store(self, name, {} if type(default) is dict else default)
            else:
                raise TypeError(f"{kind.__name__}: {name} is missing")
        if named:
            raise TypeError(f"{kind.__name__}: expected {', '.join(names)}, got {next(iter(named))}")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; use dataclasses.replace")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()
