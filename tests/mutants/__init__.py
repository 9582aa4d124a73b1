"""Known faults that the tests must catch, and the layers of tests that catch them."""
