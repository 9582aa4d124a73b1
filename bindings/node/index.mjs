import dlock from './index.js';

export const { version } = dlock;
export default dlock;
