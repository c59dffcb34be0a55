"""Requests to the app under test."""

import json

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


def post(client, path, body, status=200):
    response = client.post(path, data=json.dumps(body))
    answer = response.get_json()
    response.close()  # only now the request is counted and logged
    assert response.status_code == status, answer
    return answer


def helm_body(**changes):
    """The eight keys that HELM's client sends."""
    keys = {"prompt": "hello", "temperature": 1e-7, "num_return_sequences": 1}
    keys |= {"max_new_tokens": 8, "top_p": 1, "echo_prompt": False}
    return keys | {"top_k_per_token": 1, "stop_sequences": []} | changes
