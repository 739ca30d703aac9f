"""The experiments of Wang, Tan & Lin (2020), Section 6, and a check of Section 5.

One module each for Table 5, Table 6, Figure 3 and Section 5. A *cell* is one run of one method with one
seed: `settings` says what it is, `data` gives it its images, `record` keeps it on disk, `runner` runs it.
"""
