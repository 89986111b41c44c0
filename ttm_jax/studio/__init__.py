"""The studio: see, propose, edit and render motion in the browser.

`backends` says what the networks must do, `jax_runs` and `exported_networks` do it. A `project` is
an immutable state with a history; its motion is a list of `motion_edits`, each a call of
`ttm_jax.trajectory_edits`. `api` serves it, `web/` draws it, `shell` is the Gradio app around both.
"""
