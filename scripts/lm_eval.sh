#!/usr/bin/env bash
# lm-eval's tasks on a model of ours; lm-eval's environment is made first:
#   bash scripts/lm_eval.sh outputs/train/<run> 'tasks=[hellaswag,arc_challenge,gsm8k,ifeval]'
source "$(dirname "$0")/venv.sh"

# lm-eval wants packages that the project does without, so it lives in an environment of its own.
# It needs no torch there: the model stays in our process.
lm_eval=.venv-lm-eval
if [ ! -f "$lm_eval/installed" ]; then
    echo "Installing lm-eval into $lm_eval (a minute or two, once) ..."
    python -m venv "$lm_eval"
    "$lm_eval/bin/pip" install --quiet --disable-pip-version-check "lm_eval[ifeval,math]==0.4.13"
    touch "$lm_eval/installed"
fi
exec python -m effchal.lm_eval "$@"
