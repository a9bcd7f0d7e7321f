"""A tree as EPU leaves it: grid squares, foil holes, and XML beside each exposure."""

from __future__ import annotations

from pathlib import Path

__all__ = ["exposure_path", "write_exposure"]

_XML = """<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects" \
xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
<name>{name}</name>
<CustomData xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>Detectors[BF].CommercialName</a:Key><a:Value>FALCON 4</a:Value>\
</a:KeyValueOfstringanyType>
<a:KeyValueOfstringanyType><a:Key>AppliedDefocus</a:Key><a:Value>{defocus_m}</a:Value></a:KeyValueOfstringanyType>
</CustomData>
<microscopeData>
<acquisition><acquisitionDateTime>{taken_at}</acquisitionDateTime></acquisition>
<gun><AccelerationVoltage>300000</AccelerationVoltage></gun>
<optics><BeamShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types"><a:_x>-0.0321</a:_x>\
<a:_y>0.0123</a:_y></BeamShift><ImageShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types">\
<a:_x>{shift_x_m}</a:_x><a:_y>{shift_y_m}</a:_y></ImageShift></optics>
<stage><Position><A>0</A><B>0</B><X>{stage_x_m}</X><Y>{stage_y_m}</Y><Z>-1.2E-05</Z></Position></stage>
</microscopeData>
</MicroscopeImage>
"""


def exposure_path(root: Path, square: int | str, hole: int, image: int = 1) -> Path:
    """Where EPU keeps an exposure, without the ending."""
    name = f"FoilHole_{hole}_Data_{hole + 1}_{image}_20261128_{100000 + image:06d}"
    return root / "Images-Disc1" / f"GridSquare_{square}" / "Data" / name


def write_exposure(
    base: Path,
    *,
    stage_um: tuple[float, float],
    defocus_um: float = 1.5,
    shift_um: tuple[float, float] = (0.0, 0.0),
    taken_at: str = "2026-11-28T10:15:00.1234567+01:00",
) -> Path:
    """Write EPU's XML of an exposure, by its path without the ending."""
    base.parent.mkdir(parents=True, exist_ok=True)
    file = base.with_name(base.name + ".xml")
    (shift_x, shift_y), (stage_x, stage_y) = shift_um, stage_um
    file.write_text(
        _XML.format(
            name=base.name,
            defocus_m=-defocus_um * 1e-6,
            taken_at=taken_at,
            shift_x_m=shift_x * 1e-6,
            shift_y_m=shift_y * 1e-6,
            stage_x_m=stage_x * 1e-6,
            stage_y_m=stage_y * 1e-6,
        ),
        "utf-8",
    )
    return file
