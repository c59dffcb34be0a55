"""Requests to the app under test."""

import json


def post(client, path, body, status=200):
    response = client.post(path, data=json.dumps(body))
    answer = response.get_json()
    response.close()  # now it is out: counted and logged
    assert response.status_code == status, answer
    return answer
