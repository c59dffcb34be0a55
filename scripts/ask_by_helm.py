"""What HELM's own HTTP client and tokenizer get from a server, as one line of JSON.

.venv-helm/bin/python scripts/ask_by_helm.py http://127.0.0.1:80 "The capital of France is" 12
"""

import json
import sys

from helm.clients.http_model_client import HTTPModelClient
from helm.common.cache import BlackHoleCacheConfig
from helm.common.request import Request
from helm.common.tokenization_request import DecodeRequest, TokenizationRequest
from helm.tokenizers.http_model_tokenizer import HTTPModelTokenizer


def main(url: str, prompt: str, max_tokens: int) -> None:
    request = Request(
        model="effchal/model",
        model_deployment="effchal/model",
        prompt=prompt,
        temperature=0.0,
        max_tokens=max_tokens,
    )
    answer = HTTPModelClient(BlackHoleCacheConfig(), url).make_request(request)
    if not answer.success:
        sys.exit(f"error: HELM's client: {answer.error}")
    tokenizer = HTTPModelTokenizer(BlackHoleCacheConfig(), url)
    tokens = tokenizer.tokenize(TokenizationRequest(prompt, "effchal/model", encode=True))
    ids = [token.value for token in tokens.tokens]
    text = tokenizer.decode(DecodeRequest(ids, "effchal/model")).text
    (completion,) = answer.completions
    tokens_of_answer = [token.text for token in completion.tokens]
    print(json.dumps({"text": completion.text, "tokens": tokens_of_answer, "decoded": text}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
