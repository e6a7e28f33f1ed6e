"""VASP's outputs as the stand-in writes them: vasprun.xml, OUTCAR, OSZICAR, CONTCAR, as far as pymatgen and ASE read them.

No clock and no machine is in them, so equal inputs give equal bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape

import numpy as np

from vaspdouble.inputs import INTEGERS, LISTS, REALS, SWITCHES, Inputs, nbands, valence

#: eV/angstrom^3 in kB.
KBAR = 1602.1766208
TITLE = " vasp.6.4.2 STAND-IN, NOT VASP (build 01Jan00) complex"


@dataclass
class Ionic:
    """One ionic step; stress in eV/angstrom^3 of ASE's sign, energies of the electronic steps in eV."""

    cell: np.ndarray
    positions: np.ndarray
    free: float
    zero: float
    forces: np.ndarray
    stress: np.ndarray
    scf: list[float]
    converged: bool


@dataclass
class Electrons:
    """Bands (spin, k-point, band; eV), occupations of the same shape, k-points and weights, moments of the atoms."""

    kpoints: np.ndarray
    weights: np.ndarray
    bands: np.ndarray
    occupations: np.ndarray
    efermi: float
    moments: np.ndarray | None
    dos: tuple[np.ndarray, np.ndarray] = field(default=(np.zeros(0), np.zeros(0)))


def numbers(values, form: str = "16.8f") -> str:
    """Format numbers with one blank between."""
    return " ".join(f"{value:{form}}" for value in values)


class Writer:
    """Writes as the calculation goes, so that what is cut off is cut off where VASP would be."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self.folder, self.inputs = folder, inputs
        self.xml = (folder / "vasprun.xml").open("w")
        self.outcar = (folder / "OUTCAR").open("w")
        self.oszicar = (folder / "OSZICAR").open("w")
        self.steps, self.last = 0, 0.0
        self._head_xml()
        self._head_outcar()

    def flush(self) -> None:
        """Let monitors see what is there."""
        for stream in (self.xml, self.outcar, self.oszicar):
            stream.flush()

    # ------------------------------------------------------------------------------------------ vasprun.xml

    def _head_xml(self) -> None:
        i, x = self.inputs, self.xml
        x.write('<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n')
        for name, text in (
            ("program", "vasp "), ("version", "6.4.2  "), ("subversion", "(STAND-IN, NOT VASP) "),
            ("platform", "none "), ("date", "2000 01 01 "), ("time", "00:00:00 "),
        ):  # fmt: skip
            x.write(f'  <i name="{name}" type="string">{text}</i>\n')
        x.write(" </generator>\n <incar>\n")
        for tag, value in i.incar.items():
            x.write("  " + parameter(tag, value))
        style = {"Gamma": "Gamma", "Monkhorst": "Monkhorst-Pack"}[i.style]
        x.write(f' </incar>\n <kpoints>\n  <generation param="{style}">\n')
        x.write(f'   <v type="int" name="divisions">{numbers(i.grid, "8d")} </v>\n')
        x.write(f'   <v name="usershift">{numbers([0.0] * 3)} </v>\n')
        for k in range(3):
            x.write(f'   <v name="genvec{k + 1}">{numbers(np.eye(3)[k] / i.grid[k])} </v>\n')
        x.write(f'   <v name="shift">{numbers([0.0] * 3)} </v>\n  </generation>\n')
        kpoints, weights = mesh(i)
        varray(x, "kpointlist", kpoints, 2)
        varray(x, "weights", weights[:, None], 2)
        x.write(' </kpoints>\n <parameters>\n  <separator name="all of it" >\n')
        for tag, value in self.parameters().items():
            x.write("   " + parameter(tag, value))
        x.write("  </separator>\n </parameters>\n")
        self._atominfo()
        self._structure("initialpos", i.cell, i.positions)

    def parameters(self) -> dict:
        """What VASP would compute with: its defaults under the INCAR's tags."""
        i = self.inputs
        given = {k: v for k, v in i.incar.items() if k != "ENCUT"}
        given.pop("MAGMOM", None)
        return {
            "SYSTEM": "unknown system", "PREC": "normal", "ENMAX": i.incar["ENCUT"], "ENAUG": 605.4, "EDIFF": 1e-4,
            "IALGO": 38, "IWAVPR": 10, "NELECT": i.nelect, "ISPIN": 1, "NELM": 60, "NELMIN": 2, "NELMDL": -5,
            "ISMEAR": 1, "SIGMA": 0.2, "LREAL": False, "NSW": 0, "IBRION": -1 if i.incar.get("NSW", 0) < 2 else 0,
            "ISIF": 2, "EDIFFG": 10 * i.incar.get("EDIFF", 1e-4), "POTIM": 0.5, "ISYM": 2, "SYMPREC": 1e-5,
            "LHFCALC": False, "LDAU": False, "METAGGA": "--", "GGA": "--", "LASPH": False, "ISTART": 0, "ICHARG": 2,
            "LORBIT": 0, "NEDOS": 301, "LCHIMAG": False, "LOPTICS": False, "LEPSILON": False, "KPAR": 1,
            "MAGMOM": i.incar.get("MAGMOM", [1.0] * sum(i.counts)),
            **given, "NBANDS": nbands(i),
        }  # fmt: skip

    def _atominfo(self) -> None:
        i, x = self.inputs, self.xml
        x.write(f" <atominfo>\n  <atoms> {sum(i.counts)} </atoms>\n  <types> {len(i.species)} </types>\n")
        x.write('  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n   <field type="string">element</field>\n'
                '   <field type="int">atomtype</field>\n   <set>\n')  # fmt: skip
        for kind, (symbol, count) in enumerate(zip(i.species, i.counts, strict=True), 1):
            x.write(f"    <rc><c>{symbol:2s}</c><c>{kind:4d}</c></rc>\n" * count)
        x.write('   </set>\n  </array>\n  <array name="atomtypes" >\n   <dimension dim="1">type</dimension>\n'
                '   <field type="int">atomspertype</field>\n   <field type="string">element</field>\n   <field>mass</field>\n'
                '   <field>valence</field>\n   <field type="string">pseudopotential</field>\n   <set>\n')  # fmt: skip
        for symbol, count, name in zip(i.species, i.counts, i.potcars, strict=True):
            x.write(f"    <rc><c>{count:4d}</c><c>{symbol:2s}</c><c>{1.0:16.8f}</c><c>{valence(name):16.8f}</c>"
                    f"<c>{titel(name):40s}</c></rc>\n")  # fmt: skip
        x.write("   </set>\n  </array>\n </atominfo>\n")

    def _structure(self, name: str, cell, positions) -> None:
        x = self.xml
        x.write(f' <structure name="{name}" >\n' if name else " <structure>\n")
        x.write("  <crystal>\n")
        varray(x, "basis", cell, 3)
        x.write(f'   <i name="volume">{abs(np.linalg.det(cell)):16.8f} </i>\n')
        varray(x, "rec_basis", np.linalg.inv(cell).T, 3)
        x.write("  </crystal>\n")
        varray(x, "positions", positions @ np.linalg.inv(cell) % 1.0, 2)
        x.write(" </structure>\n")

    # ------------------------------------------------------------------------------------------ OUTCAR

    def _head_outcar(self) -> None:
        i, o = self.inputs, self.outcar
        o.write(f"{TITLE}\n executed on             none date 2000.01.01  00:00:00\n running on    1 total cores\n"
                " distrk:  each k-point on    1 cores,    1 groups\n\n INCAR:\n")  # fmt: skip
        for name in (*i.potcars, *i.potcars):
            o.write(f" POTCAR:   {titel(name)}\n")
        for symbol, name in zip(i.species, i.potcars, strict=True):
            o.write(f"   VRHFIN ={symbol}: none\n   LEXCH  = PE\n   TITEL  = {titel(name)}\n"
                    f"   POMASS =    1.000; ZVAL   = {valence(name):8.3f}    mass and valenz\n")  # fmt: skip
        kpoints, weights = mesh(i)
        o.write(f"\n   k-points           NKPTS = {len(weights):6d}   k-points in BZ     NKDIM = {len(weights):6d}"
                f"   number of bands    NBANDS= {nbands(i):6d}\n")  # fmt: skip
        o.write(f"   number of dos      NEDOS = {301:6d}   number of ions     NIONS = {sum(i.counts):6d}\n")
        o.write(
            f"   dimension x,y,z NGX =    20 NGY =   20 NGZ =   20\n   total plane-waves  NPLWV = {8000:6d}\n"
        )
        o.write("   ions per type = " + "".join(f"{n:8d}" for n in i.counts) + "\n\n")
        p = self.parameters()
        for tag, form in (("ENCUT", "8.1f"), ("ISPIN", "6d"), ("NELM", "6d"), ("NSW", "6d"), ("IBRION", "6d"),
                          ("ISIF", "6d"), ("ISMEAR", "6d"), ("SIGMA", "8.2f")):  # fmt: skip
            o.write(f"   {tag:6s} = {i.incar['ENCUT'] if tag == 'ENCUT' else p[tag]:{form}}    stand-in\n")
        o.write(
            "   LSORBIT =      F    spin-orbit coupling\n   LNONCOLLINEAR =      F non collinear calculations\n"
        )
        o.write(f"   NELECT = {i.nelect:12.4f}    total number of electrons\n\n")
        o.write(" k-points in reciprocal lattice and weights: stand-in\n")
        for k, w in zip(kpoints, weights, strict=True):
            o.write(f"{numbers(k, '12.8f')}   {w:12.3f}\n")
        o.write("\n\n" + "-" * 100 + "\n\n\n")

    def electronic(self, number: int, energy: float, change: float) -> None:
        """Write one electronic step."""
        self.xml.write(
            f"  <scstep>\n   <energy>\n{energies(energy, energy, energy)}   </energy>\n  </scstep>\n"
        )
        self.outcar.write(f"----------------------------------------- Iteration {self.steps + 1:6d}({number:4d})  "
                          "---------------------------------------\n\n")  # fmt: skip
        self.oszicar.write(
            f"DAV: {number:3d}    {energy:18.12E}   {change:12.5E}  {-abs(change):12.5E}   100   0.100E+00\n"
        )

    def begin_ionic(self) -> None:
        """Open an ionic step."""
        self.xml.write(" <calculation>\n")
        self.oszicar.write(
            "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
        )

    def end_ionic(self, step: Ionic, electrons: Electrons, last: bool) -> None:
        """Write what an ionic step ends with; the electrons with the last one."""
        x, o, i = self.xml, self.outcar, self.inputs
        self.steps += 1
        without = 2 * step.zero - step.free
        o.write("------------------------ aborting loop because EDIFF is reached ----------------------------------------\n\n\n"
                if step.converged else
                "------------------------ aborting loop EDIFF was not reached (unconverged)  ----------------------------\n\n\n")  # fmt: skip
        o.write(f" E-fermi : {electrons.efermi:9.4f}     XC(G=0):  0.0000     alpha+bet :  0.0000\n\n")
        o.write(f" number of electron {i.nelect:15.7f} magnetization {self._total(electrons):15.7f}\n")
        if electrons.moments is not None:
            o.write("\n magnetization (x)\n \n# of ion       s       p       d       tot\n" + "-" * 42 + "\n")
            for n, m in enumerate(electrons.moments, 1):
                o.write(f"{n:5d}   {0.0:10.3f}{0.0:8.3f}{m:8.3f}{m:8.3f}\n")
            o.write(
                "-" * 42
                + f"\ntot     {0.0:10.3f}{0.0:8.3f}{electrons.moments.sum():8.3f}{electrons.moments.sum():8.3f}\n\n"
            )
        s = step.stress * -KBAR  # VASP's sign: positive when the cell wants to grow
        o.write("  FORCE on cell =-STRESS in cart. coord.  units (eV):\n"
                "  Direction    XX          YY          ZZ          XY          YZ          ZX\n")  # fmt: skip
        o.write(f"  in kB  {numbers((s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[1, 2], s[2, 0]), '14.8f')}\n")
        o.write(f"  external pressure = {np.trace(s) / 3:11.2f} kB  Pullay stress =        0.00 kB\n\n")
        o.write(" VOLUME and BASIS-vectors are now :\n" + "-" * 80 + f"\n  energy-cutoff  :  {i.incar['ENCUT']:10.2f}\n"
                f"  volume of cell :  {abs(np.linalg.det(step.cell)):10.2f}\n"
                "      direct lattice vectors                 reciprocal lattice vectors\n")  # fmt: skip
        for a, b in zip(step.cell, np.linalg.inv(step.cell).T, strict=True):
            o.write(f"  {numbers(a, '14.9f')}  {numbers(b, '12.9f')}\n")
        o.write("\n  length of vectors\n" + f"  {numbers(np.linalg.norm(step.cell, axis=1), '12.9f')}\n\n")
        o.write(" POSITION                                       TOTAL-FORCE (eV/Angst)\n " + "-" * 83 + "\n")
        for r, f in zip(step.positions, step.forces, strict=True):
            o.write(f" {numbers(r, '15.9f')} {numbers(f, '16.8f')}\n")
        o.write(
            " "
            + "-" * 83
            + f"\n    total drift:    {numbers([0.0] * 3, '16.6f')}\n\n"
            + "-" * 100
            + "\n\n\n\n"
        )
        o.write("  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n"
                f"  free  energy   TOTEN  = {step.free:20.8f} eV\n\n"
                f"  energy  without entropy= {without:20.8f}  energy(sigma->0) = {step.zero:20.8f}\n\n\n"
                "     LOOP+:  cpu time    1.0000: real time    1.0000\n\n")  # fmt: skip
        line = (
            f"{self.steps:4d} F= {step.free:15.8E} E0= {step.zero:15.8E}  d E ={step.free - self.last:13.6E}"
        )
        if electrons.moments is not None:
            line += f"  mag= {electrons.moments.sum():9.4f}"
        self.last = step.free
        self.oszicar.write(line + "\n")
        self._structure("", step.cell, step.positions)
        varray(x, "forces", step.forces, 2)
        varray(x, "stress", s, 2)
        x.write(f"  <energy>\n{energies(step.free, without, step.zero)}  </energy>\n")
        if last:
            self._electrons(electrons)
        x.write(" </calculation>\n")
        self.contcar(step)
        self.flush()

    @staticmethod
    def _total(electrons: Electrons) -> float:
        return 0.0 if electrons.moments is None else float(electrons.moments.sum())

    def _electrons(self, e: Electrons) -> None:
        x = self.xml
        grid, dos = e.dos
        step = grid[1] - grid[0]
        x.write(f'  <dos>\n   <i name="efermi">{e.efermi:16.8f} </i>\n   <total>\n    <array>\n     <dimension dim="1">gridpoints'
                '</dimension>\n     <dimension dim="2">spin</dimension>\n     <field>energy</field>\n     <field>total</field>\n'
                "     <field>integrated</field>\n     <set>\n")  # fmt: skip
        for spin, values in enumerate(dos, 1):
            rows = np.column_stack([grid, values, np.cumsum(values) * step])
            x.write(f'      <set comment="spin {spin}">\n')
            x.writelines(f"       <r> {numbers(row, '12.4f')} </r>\n" for row in rows)
            x.write("      </set>\n")
        x.write("     </set>\n    </array>\n   </total>\n  </dos>\n  <eigenvalues>\n   <array>\n    <dimension dim=\"1\">band"
                '</dimension>\n    <dimension dim="2">kpoint</dimension>\n    <dimension dim="3">spin</dimension>\n'
                "    <field>eigene</field>\n    <field>occ</field>\n    <set>\n")  # fmt: skip
        for spin in range(len(e.bands)):
            x.write(f'     <set comment="spin {spin + 1}">\n')
            for k in range(len(e.kpoints)):
                x.write(f'      <set comment="kpoint {k + 1}">\n')
                x.writelines(
                    f"       <r>{a:11.4f}{b:10.4f} </r>\n"
                    for a, b in zip(e.bands[spin, k], e.occupations[spin, k], strict=True)
                )
                x.write("      </set>\n")
            x.write("     </set>\n")
        x.write("    </set>\n   </array>\n  </eigenvalues>\n")

    def contcar(self, step: Ionic) -> None:
        """Write CONTCAR, which VASP does after each ionic step."""
        i = self.inputs
        lines = ["stand-in", "   1.00000000000000", *(f"  {numbers(v, '20.16f')}" for v in step.cell)]
        lines += ["   " + "   ".join(i.species), "   " + "   ".join(str(n) for n in i.counts), "Direct"]
        lines += [f"  {numbers(v, '19.16f')}" for v in step.positions @ np.linalg.inv(step.cell) % 1.0]
        (self.folder / "CONTCAR").write_text("\n".join(lines) + "\n\n")

    def finish(self, step: Ionic, reached: bool) -> None:
        """Write what a run that ends by itself ends with."""
        self._structure("finalpos", step.cell, step.positions)
        self.xml.write("</modeling>\n")
        if reached:
            self.outcar.write(" reached required accuracy - stopping structural energy minimisation\n")
        self.outcar.write("\n\n General timing and accounting informations for this job:\n"
                          " ========================================================\n\n"
                          "                  Total CPU time used (sec):        1.000\n"
                          "                            User time (sec):        1.000\n"
                          "                          System time (sec):        0.000\n"
                          "                         Elapsed time (sec):        1.000\n\n"
                          "                   Maximum memory used (kb):      100000.\n"
                          "                   Average memory used (kb):          N/A\n")  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close all files, finished or not."""
        for stream in (self.xml, self.outcar, self.oszicar):
            stream.close()


def titel(name: str) -> str:
    """Title of a data set."""
    return f"PAW_PBE {name} 01Jan2000"


def parameter(tag: str, value) -> str:
    """Write one tag of vasprun.xml with VASP's types."""
    if tag in LISTS:
        return f'<v name="{tag}">{numbers(value, "16.8f")}</v>\n'
    if isinstance(value, bool) or tag in SWITCHES:
        return f'<i type="logical" name="{tag}"> {"T" if value else "F"}  </i>\n'
    if tag in INTEGERS or isinstance(value, int):
        return f'<i type="int" name="{tag}">{value:6d}</i>\n'
    if tag in REALS or isinstance(value, float):
        return f'<i name="{tag}">{value:16.8f}</i>\n'
    return f'<i type="string" name="{tag}">{escape(str(value))}</i>\n'


def energies(free: float, without: float, zero: float) -> str:
    """Write the three energies."""
    return (
        f'    <i name="e_fr_energy">{free:16.8f} </i>\n    <i name="e_wo_entrp">{without:16.8f} </i>\n'
        f'    <i name="e_0_energy">{zero:16.8f} </i>\n'
    )


def varray(stream: TextIO, name: str, rows, depth: int) -> None:
    """Write an array of vectors."""
    blank = " " * depth
    stream.write(f'{blank}<varray name="{name}" >\n')
    stream.writelines(f"{blank} <v> {numbers(row)} </v>\n" for row in rows)
    stream.write(f"{blank}</varray>\n")


def mesh(i: Inputs, most: int = 24):
    """K-points (n, 3) and weights: the grid halved by time reversal, and thinned out to `most` to stay fast."""
    grid = np.array(i.grid)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), -1).reshape(-1, 3)
    shift = 0.0 if i.style == "Gamma" else 0.5 * (grid % 2 == 0)
    points = (index + shift) / grid
    points = points[: len(points) // 2 + 1]
    points = points[np.linspace(0, len(points) - 1, min(len(points), most)).astype(int)]
    return points, np.full(len(points), 1.0 / len(points))
