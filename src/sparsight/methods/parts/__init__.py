"""What methods are made of: pure functions of tensors that know no module.

* `cells`: grids of visual tokens; compact cells, their centres, shares, smaller grids.
* `scores`: attention of the class token, of the last token, received; distinctiveness; scaling.
* `geometry`: cosines of tokens as they are, centred or standardised; rows of them on demand.
* `choosers`: top-k, max-min, determinantal greedy, discounted top-k; numerical rank.
* `coverage`: the chooser by coverage, whose gains are brought up to date instead of summed anew.
* `merging`: density-peak clusters, contextual anchors, nearest token; sums and means of groups.
* `encoder_choices`: the choices of HiPrune, VisPruner and VisionZip.
* `tensors`: wide numbers, gathered rows, sets of indices.
"""
