"""Series and studies: when they are complete, whether they fit together, what they are as volumes.

Everything here takes and returns values: no broker, no database, no clock of its own.

- ``records`` makes records of file events; ``watermark`` is the rule of event time that makes a
  replay equal to the live run; ``completion`` and ``study`` are the two state machines, ``rules``
  the series that a study must have.
- ``geometry`` checks from headers whether slices make a volume.
- ``volume`` makes one entity of a series or a NIfTI file: ``aggregate`` its embedding,
  ``projections`` its pictures, ``vote`` its modality.
- ``feedback`` lays people's corrections over labels; ``reliability`` counts what they tell of
  calibration, ``training`` writes them down for the next training.

A worker holds one ``SeriesCompletion`` and one ``StudyCompletion``, gets all instances of a study
(partition by study), and for each batch: feeds it, stores each ``SeriesPutAway`` and
``StudyPutAway``, emits the versions, writes both states in one write, and only then commits the
offsets. Between any two of these it may crash.
"""
