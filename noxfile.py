"""`nox` runs what CI runs, each on a fresh virtual environment; `nox -s bench` prints the README's figures."""

import nox

nox.options.sessions = ["lint", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    session.install(".")
    session.run("python", "bench/embedded.py", *session.posargs)
    session.run("python", "bench/parser.py")
    session.run("python", "bench/schemas.py")
    session.run("python", "bench/guard.py")
    session.run("python", "bench/hostile.py")
