"""Module names under which an older Weighbridge started engines; `tasks/engines/` has the engines.

After a crash and after a restart of the machine, supervisord starts an engine by its first command again. These files
keep such commands valid until the engine is retired.
"""
