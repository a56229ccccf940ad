"""Names and defaults that the help shows.

They are written down here because the modules that they come from take seconds to import. A test
compares them with the real ones.
"""

METHOD_NAMES = (
    "sparsight, sparsevlm, sparsevlm-plus, fastv, pyramiddrop, sieve, dart, autoprune, tome, "
    "pixelprune, hiprune, fastervlm, vispruner, visionzip, prumerge, prumerge-plus, holov, "
    "prunesid, divprune, scope, cdpruner, mmtok, eadp, vscan, tops, evs, vidcom2, restore, random, "
    "uniform, pool, downscale"
)
CHATS = "vicuna, llama_3, chatml, mistral, gemma"
DTYPES = "float32, bfloat16, float16"
CONTROLS = "none, question-only, swapped"
DEVICES = "cpu, cuda, cuda:N or mps"
SCENES = "scenes"
SUITES = "scenes-1, scenes-2, scenes-2-dev"
METHODS = "dense,random,uniform,pool,downscale,sparsevlm,sparsight"
BUDGETS = "192,128,64,32"
TASK_METHODS = "dense,sparsevlm,sparsight"
TASKS = (
    "gqa, mmbench, mme, pope, sqa, seed, textvqa, mmvet, textvqa-plain, tgif, msvd, msrvtt, "
    "activitynet"
)
