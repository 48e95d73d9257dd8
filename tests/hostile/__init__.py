"""Engines that do all that no engine should, and calls that are wrong in every way in which K2's are.

    HostileEngine   has a habit: it never does what it is asked
    SloppyEngine    knows the right calls, and damages each with probability p by a class of `DAMAGES`

Both count what was asked and pulled, and fail a test that asks without end. `play` has one of them answer a request and
judges what came out. All of it is a function of its seeds.
"""
