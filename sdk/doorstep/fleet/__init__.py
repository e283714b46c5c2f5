"""A fleet that pulls bundles: a depot of static files, and devices that update themselves and are never bricked.

Publish side: `depot`, `publishing`, `care`, `keys`. Device side, in the order an update takes: `trust`, `rollout`,
`download`, `delta`, `staging`, `selftest`, `store`, `follow`; `updater` puts them in a row.
"""
