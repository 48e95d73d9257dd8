"""What a turn may be: schemas, grammars, and the guard that lets nothing else through."""

from abruzzi.guide.schema import accepts, compile

__all__ = ["accepts", "compile"]
