"""What a call's hands run on: one thread with a selector for sync calls, the caller's event loop for async ones.

A hand is a coroutine that plays one batch after another (`multiembed.drive`). It is the same for both doors, because it
waits for nothing but what its reactor offers: a signal or a time, a socket, something done aside.
"""
