"""The functions of `benchmarks.apps` once more, on other products' SDKs. Run by the interpreter that has those."""
