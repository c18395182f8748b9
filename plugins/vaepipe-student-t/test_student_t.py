from vaepipe_student_t import StudentTPrior

from vaepipe.testing import PriorContract


class TestStudentT(PriorContract):
    def make(self, latent_shape, data):
        return StudentTPrior(latent_shape, data, df=4.0)
