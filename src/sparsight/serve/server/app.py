"""The application: its routes, and what becomes of errors."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from sparsight.serve.server.batches import Host
from sparsight.serve.server.chat import Completions
from sparsight.serve.server.door import Door
from sparsight.serve.server.errors import RequestError, broken, explain
from sparsight.serve.server.fetching import Fetcher
from sparsight.serve.server.metrics import Metrics
from sparsight.serve.server.prompts import Writer
from sparsight.serve.server.settings import Settings
from sparsight.serve.server.worker import Worker

LOG = logging.getLogger("sparsight.serve")


class Service:
    """A model behind HTTP: `door` is the application.

    Args:
        model: that answers, in evaluation mode.
        processor: of the model.
        settings: of the server.
        fetcher: of remote images; None makes one.
    """

    def __init__(
        self, model: Any, processor: Any, settings: Settings, fetcher: Fetcher | None = None
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.worker = Worker(
            Host(model, processor, self.metrics), self.metrics, settings.limits.batch
        )
        self._since = int(time.time())
        self.completions = Completions(
            Writer(model, processor, settings),
            self.worker,
            settings,
            self.metrics,
            fetcher or Fetcher(settings.limits),
        )
        self.door = Door(self._build(), settings.api_key, self.metrics)

    def _build(self) -> FastAPI:
        """Return the application behind the door; its pages of documentation are left out."""
        app = FastAPI(lifespan=self._live, openapi_url=None, docs_url=None, redoc_url=None)
        app.add_exception_handler(RequestError, _answer_error)
        app.add_exception_handler(HTTPException, _answer_http)
        app.add_exception_handler(Exception, _answer_error)
        app.post("/v1/chat/completions")(self._chat)
        app.get("/v1/models")(self._list_models)
        app.get("/v1/models/{name:path}")(self._show_model)
        app.get("/health")(self._tell_health)
        app.get("/metrics")(self._tell_metrics)
        return app

    @asynccontextmanager
    async def _live(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the thread of the model while the application runs."""
        del app
        self.worker.start()
        try:
            yield
        finally:
            self.worker.stop()
            self.completions.close()

    async def _chat(self, request: Request) -> Response:
        try:
            return await self.completions.answer(request)
        except RequestError:
            raise
        except Exception as error:
            refused = explain(error)
            if refused is None:
                LOG.error("a request failed", exc_info=error)
                refused = broken()
            raise refused from None

    async def _list_models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe()]})

    async def _show_model(self, name: str) -> Response:
        if name != self.settings.name:
            message = f"model {name[:60]!r} is not served; {self.settings.name!r} is."
            raise RequestError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._describe())

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self._since,
            "owned_by": "sparsight",
        }

    async def _tell_health(self) -> Response:
        state = "stopping" if self.door.stopping else "ok" if self.worker.alive else "broken"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def _tell_metrics(self) -> Response:
        return Response(self.metrics.write(), media_type=CONTENT_TYPE_LATEST)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Return the response to a request that failed."""
    del request
    refused = error if isinstance(error, RequestError) else broken()
    return Response(
        refused.encode(), refused.status, refused.headers, media_type="application/json"
    )


async def _answer_http(request: Request, error: Exception) -> Response:
    """Return the response to a path or an HTTP method that there is not."""
    status = getattr(error, "status_code", 500)
    headers = getattr(error, "headers", None) or {}
    message = f"{request.method[:20]} {request.url.path[:100]}: {getattr(error, 'detail', '')}."
    refused = RequestError(status, message, code="not_found", headers=dict(headers))
    return await _answer_error(request, refused)
