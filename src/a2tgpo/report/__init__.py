"""`a2tgpo report`: what a run directory holds, as one offline page and as the numbers of its figures."""
