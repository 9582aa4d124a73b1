/** Version of the engine, shared by every package of the project. */
export declare const version: string;
