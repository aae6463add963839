"""An app with sanic-jwt, as its documentation builds one: users in a table, refresh tokens in Redis, one for each user.

Settings come as one JSON argument: port, redis (a port), mode (header, cookies, split), life (seconds), secret or the
pair private_key and public_key with algorithm.
"""
import json as text
import sys

import redis.asyncio
from sanic import Sanic
from sanic.response import json
from sanic_jwt import Initialize, exceptions, protected, scoped

SETTINGS = text.loads(sys.argv[1])
PEOPLE = {
    7: {"user_id": 7, "username": "mina", "scopes": ["reader"]},
    8: {"user_id": 8, "username": "noor", "scopes": ["reader", "editor"]},
}
tokens = redis.asyncio.Redis(host="127.0.0.1", port=SETTINGS["redis"], decode_responses=True)
asked = {}


async def authenticate(request):
    body = request.json or {}
    for person in PEOPLE.values():
        if body.get("username") == person["username"] and body.get("password") == "pw-" + person["username"]:
            return person
    raise exceptions.AuthenticationFailed("Name or password is wrong.")


async def store_refresh_token(user_id, refresh_token, *args, **kwargs):
    await tokens.set(f"{SETTINGS['mode']}:{user_id}", refresh_token)


async def retrieve_refresh_token(user_id, *args, **kwargs):
    return await tokens.get(f"{SETTINGS['mode']}:{user_id}")


async def retrieve_user(request, payload, *args, **kwargs):
    return PEOPLE.get(payload.get("user_id")) if payload else None


async def scopes(user, *args, **kwargs):
    return user["scopes"]


app = Sanic("counterpart")
options = {
    "authenticate": authenticate,
    "store_refresh_token": store_refresh_token,
    "retrieve_refresh_token": retrieve_refresh_token,
    "retrieve_user": retrieve_user,
    "add_scopes_to_payload": scopes,
    "refresh_token_enabled": True,
    "expiration_delta": SETTINGS["life"],
    "leeway": 0,
    "algorithm": SETTINGS.get("algorithm", "HS256"),
}
for key in ("secret", "private_key", "public_key"):
    if key in SETTINGS:
        options[key] = SETTINGS[key]
if SETTINGS["mode"] != "header":
    options.update(cookie_set=True, cookie_split=SETTINGS["mode"] == "split")
Initialize(app, **options)


@app.on_request
async def count(request):
    asked[request.path] = asked.get(request.path, 0) + 1


@app.get("/asked")
async def counts(request):
    return json(asked)


@app.get("/mine")
@protected()
async def mine(request):
    return json({"mine": True})


@app.get("/edit")
@scoped("editor")
async def edit(request):
    return json({"edit": True})


@app.post("/forget/<user_id:int>")
async def forget(request, user_id):
    """What an administrator does: takes a user out."""
    PEOPLE.pop(user_id)
    return json({"gone": user_id})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=SETTINGS["port"], single_process=True, access_log=False, motd=False)
