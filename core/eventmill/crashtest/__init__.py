"""The crash test: post events to a deployment while its programs crash and its servers fail, then compare."""
