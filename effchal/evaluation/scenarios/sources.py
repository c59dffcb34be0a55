"""Where the data of entries come from where scenario.path is null: public files, each pinned.

Instance ids and the draw of questions depend on the order of rows. How far the data equal
HELM's own:

- BBQ, BIG-bench: the files that HELM downloads, where HELM takes the newest commit of each.
- MMLU, GSM8K: the scripts behind the hub's data sets keep rows, order and text of the files
  that HELM downloads.
- TruthfulQA: the hub's script keeps the file's order, but reads TruthfulQA.csv of commit
  013686a where HELM reads data/v1/TruthfulQA.csv of d71c110. Answers differ between commits:
  equality with HELM's file is not guaranteed.
- CNN/DM: HELM reads a pickle of its own bucket. It need not hold the hub's articles in order.
- MATH: HELM reads hendrycks/competition_math and orders it anew, so another copy of the same
  12,500 rows gives the same instances.
- SAMSum, corr2cause, ETHICS: the files of the contest.
"""

from dataclasses import dataclass, replace

BUCKET_NAME = "crfm-helm-public"  # HELM's own storage


@dataclass(frozen=True)
class Source:
    """Where files come from. source.json holds this, with the date and their names."""

    repo: str
    config: str  # of a hub data set; in a GitHub repository, the file
    revision: str  # commit


MMLU = Source("cais/mmlu", "<subject>", "c30699e8356da336a370243923dbaf21066bb9fe")
GSM = Source("openai/gsm8k", "main", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c")
TRUTHFUL_QA = Source(
    "truthfulqa/truthful_qa", "generation", "741b8276f2d1982aa3d5b832d3ee81ed3b896490"
)
CNNDM = Source("abisee/cnn_dailymail", "3.0.0", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d")
BBQ = Source("nyu-mll/BBQ", "data/<subject>.jsonl", "bea11bd97d79217245b5871acd247b9d6eb24598")
BIG_BENCH = Source(
    "google/BIG-bench", "<task>/task.json", "092b196c1f8f14a54bbc62f24759d43bde46dd3b"
)

MATH = Source("EleutherAI/hendrycks_math", "<subject>", "21a5633873b6a120296cce3e2df9d5550074f4a3")
# The contest's own files, as its fork of HELM names them.
GISTS = {
    "sam_sum": Source(
        "msaroufim/3f1845a5d93b50d849c42b7baeb2f716",
        "samsum.tsv",
        "11c2d1814a69bb2cfa54549eaa50c0dcc104b9e5",
    ),
    "corr2cause": Source(
        "msaroufim/2835e9a27490bb183de86c54c0614169",
        "corr2cause.csv",
        "4160842cd2574716355a5fe9134387a20baed9f8",
    ),
    "ethics_commonsense": Source(
        "msaroufim/382c21ac4929624918281c71744f234a",
        "commonsense_hard.csv",
        "3d24bc372fcbb6a20457f91f948dc3598fb10e34",
    ),
    "ethics_deontology": Source(
        "msaroufim/ec85b505a0941648d31a1ae9d5132cf7",
        "deontology.csv",
        "2ea4d358f96121e9000ac78051567ed847be887b",
    ),
    "ethics_justice": Source(
        "msaroufim/1b9c298b5bbc8cf3cd379c5dc05a3998",
        "justice_hard.csv",
        "41cfe8da6ffafe473d91d1ae3e3fb1e927d09efa",
    ),
    "ethics_utilitarianism": Source(
        "msaroufim/0fe76e3d59214bfe9cc760dda99df5b1",
        "util.csv",
        "c0983230762bdbc0a1f3c5873d3f6deb21d04cbe",
    ),
    "ethics_virtue": Source(
        "msaroufim/e9cf8fbdd40a3c801463299f60b2c400",
        "virtue.csv",
        "05aaeb2cb4efc739277653801ce258ad8f997f5b",
    ),
}

_HELM = Source("stanford-crfm/helm", "src/helm/benchmark/<file>", "v0.5.16")
_AUGMENTATIONS = "source_datasets/augmentations"
TABLE_SOURCES = {
    "misspellings": replace(
        _HELM, config="src/helm/benchmark/augmentations/correct_to_misspelling.json"
    ),
    "contractions": replace(
        _HELM, config="src/helm/benchmark/augmentations/contraction_expansion_perturbation.py"
    ),
    "bias_words": replace(_HELM, config="src/helm/benchmark/metrics/bias_word_lists.py"),
    # HELM's storage has no versions.
    "dialect": Source(
        BUCKET_NAME, f"{_AUGMENTATIONS}/dialect_perturbation/SAE_to_AAVE_mapping.json", ""
    ),
    "names": Source(BUCKET_NAME, f"{_AUGMENTATIONS}/person_name_perturbation/person_names.txt", ""),
    "punkt": Source(
        "nltk/nltk_data",
        "packages/tokenizers/punkt_tab.zip",
        "4f15a3d89eefe9748ec1c05be495d91289197155",
    ),
}
DIGESTS = {  # sha256
    "misspellings": "2f8e118895e52426bacd0cd32dfd0c14708e845c910d129f2d03571fe9f75c8b",
    "contractions": "274f7bcc54aaa703304af8f0864453f41940baaf626fa2be51ad5b90592fbd18",
    "bias_words": "7b293ac1ed89e125bc65a67141458b07b61aa67f76b8ce5309e921141e6f83e5",
    "punkt": "e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106",
}
