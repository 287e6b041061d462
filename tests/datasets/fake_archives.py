"""Small archives."""

import io
import tarfile
import zipfile


def archive_of(path, names):
    """A zip or tar.gz file with small files of these names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in names.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as file:
            for name, content in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path
