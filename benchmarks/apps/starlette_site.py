"""Starlette, by itself and with a BackgroundTask."""

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.routing import Route

from . import BODY, no_op


async def no_op_too():
    no_op()


async def answer(request):
    return Response(BODY, media_type="text/plain")


async def answer_and_run(request):
    task = BackgroundTask(no_op_too)
    return Response(BODY, media_type="text/plain", background=task)


app = Starlette(routes=[Route("/", answer), Route("/task", answer_and_run)])
