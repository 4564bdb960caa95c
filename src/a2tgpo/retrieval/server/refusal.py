"""How the server says no: a status and a JSON body that names the error."""

from __future__ import annotations

from fastapi.responses import JSONResponse


def refusal(status: int, error: str, detail: str) -> JSONResponse:
    """`{"error": error, "detail": detail}`: a name for programs, a sentence for people."""
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": error, "detail": detail}, status, headers)
