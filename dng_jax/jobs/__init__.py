"""What every job does around its work.

options    where a run goes, bounds of numbers, the command that repeats a run
own_images how images of one's own are named: folder:PATH[@SIZE]
devices    which devices it runs on
processes  the processes of a job, on this machine or others: which they are, who joins whom
addresses  where they find each other: HOST:PORT, or what a step of SLURM says
team       processes that share independent work: coordinator (process 0), worker (the others),
           channels (their messages)
runs       its folder, its provenance, its JSON
opening    a job of eval/ opens its folder, with the command that repeats it
tables     records become tables, Markdown and CSV
page       a report as one self-contained HTML page
markdown   text in Markdown as it is: classes may be called anything
cells      a number with its interval, marked where it rests on few samples
cli        streams, exit codes, and the progress a person sees
completion what a shell completes after `dng`
"""
