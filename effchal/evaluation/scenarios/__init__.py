"""Questions and scores: HELM's scenarios, TruthfulQA's MC scores and a user's own file."""
