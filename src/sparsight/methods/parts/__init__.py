"""What methods are made of: pure functions of tensors that know no module.

What many methods share:

* `scores`: attention of the class token, of the last token, received; key norm, distinctiveness.
* `words`: scores by text: cosines to words, EADP's, MMTok's rows, what text does not explain.
* `geometry`: cosines of tokens as they are, centred or standardised; rows of them on demand.
* `choosers`: top-k, max-min, determinantal greedy, discounted top-k; numerical rank.
* `coverage`: choosers by coverage, alone or summed with relevance and diversity (TOPS).
* `quotas`: choosers by group: windows, strips, frames; shares of a count by weight.
* `cells`: grids of visual tokens; compact cells, their centres, shares, smaller grids.
* `merging`: density-peak clusters, contextual anchors, nearest kept token, neighbours; group means.
* `anchors`: RESTORE's anchors for what is not kept, and where a merged token stands.
* `bipartite`: ToMe's pairs, means weighted by size, merges per block, patches in the middle.
* `calibration`: biases of attention: sizes of merged tokens, distance.
* `levels`: counts that depend on the sample: AutoPrune's information and curve.
* `tensors`: wide numbers, gathered rows, sets of indices.

Published choices that take more than one call of these:

* `encoder_choices`: HiPrune, VisPruner, VisionZip, PruMerge and PruMerge+.
* `window_choices`: HoloV and VScan's first stage.
* `decoder_choices`: DART.
* `prunesid`: PruneSID.
* `video`: EVS and VidCom2; `clips` says which tokens are whose frames.
* `patches`: PixelPrune.
"""
