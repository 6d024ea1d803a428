"""What is raised where data is not there or not as it should be."""


class DataError(Exception):
    """A data file is damaged, has the wrong shape, or could not be fetched."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The files of a data set are in none of the places searched and could not be fetched."""
