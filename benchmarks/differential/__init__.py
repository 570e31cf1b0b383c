"""Our maps beside independent implementations: the tests run the comparisons, and they write docs/differential.md."""
