"""What takes more than this process and a moment: other processes, forks, signals, the
real clock, the packages of the engines. It needs no service.
"""
